"""VISTA3D, the network of MONAI's bundle, behind promptseg's interfaces: points and class names on CT."""

from .config import Vista3DConfig
from .model import Vista3DModel

__all__ = ["Vista3DConfig", "Vista3DModel"]
