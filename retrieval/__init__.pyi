from .data import ImageSet as ImageSet
from .data import Preprocessing as Preprocessing
from .errors import RetrievalError as RetrievalError
from .evaluation import evaluate as evaluate
from .index import Hit as Hit
from .index import Index as Index
from .losses import RecallLoss as RecallLoss
from .losses import recall_loss as recall_loss
from .model import Model as Model
from .runs import Run as Run
from .runs import Tuning as Tuning
from .runs import group_runs as group_runs
from .runs import list_runs as list_runs
from .runs import train as train
from .runs import tune as tune

__version__: str
__all__: list[str]
