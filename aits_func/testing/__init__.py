"""The roof. Hypothesis strategies for systems and samples, for users' own property tests.

Needs the extra: pip install 'aits_func[testing]'. Nothing else in the package imports this.
"""

from .strategies import batches as batches
from .strategies import numbers as numbers
from .strategies import orbits as orbits
from .strategies import permutations as permutations
from .strategies import rotations as rotations
from .strategies import samples as samples
from .strategies import systems as systems
from .strategies import windows as windows
