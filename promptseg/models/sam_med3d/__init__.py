"""SAM-Med3D's published architecture, so that its public weights run behind promptseg's interfaces."""

from .config import SamMed3DConfig
from .model import SamMed3DModel, normalise_tile

__all__ = ["SamMed3DConfig", "SamMed3DModel", "normalise_tile"]
