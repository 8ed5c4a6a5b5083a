"""Files on the device: whole or not there, locked, read past the cache, forgotten on request."""
