from dataclasses import dataclass
from vocabpress.methods.svd import SVD
@dataclass(frozen=True)
class LightToken(SVD): pass
