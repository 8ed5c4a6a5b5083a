"""Chat templates: known ones by their digest, unknown ones in a watched child process."""
