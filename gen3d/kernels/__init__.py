"""Hot operations of radiance fields, each a small package: a readable torch twin, and faster kernels that equal it."""
