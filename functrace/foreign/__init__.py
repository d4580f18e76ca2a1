"""What JAX brings: jaxprs become Programs; primitives without a definition here get JAX's rules."""

from functrace.foreign.importing import Foreign, Imported, import_function, import_jaxpr

__all__ = ["Foreign", "Imported", "import_function", "import_jaxpr"]
