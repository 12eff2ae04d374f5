"""Published file formats, read and written: nothing in a file is ever run."""
