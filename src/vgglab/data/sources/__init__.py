"""One module a source of images, and how their archives come and are unpacked."""
