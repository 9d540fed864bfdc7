"""Train image-retrieval embeddings on recall@k, index images, search and evaluate.

The names in `__init__.pyi` are loaded when they are first used, so `import retrieval` is fast and does not import torch.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
