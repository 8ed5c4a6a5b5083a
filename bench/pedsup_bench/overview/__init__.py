"""One page for one model, from the documents that other commands wrote."""
