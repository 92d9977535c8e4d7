"""The roof. Strategies and laws, for users' own property tests.

Needs the extra: pip install 'aits_func[testing]'. Nothing else in the package imports this.

Strategies draw what laws are tried on; laws take an object of yours, try everything that must hold of its kind, and
raise `LawError` with the simplest example that breaks one:

    from aits_func.testing import check_policy

    def test_my_policy_obeys_every_law(): check_policy(my_policy)
"""

from .draws import numbers as numbers
from .draws import permutations as permutations
from .draws import rotations as rotations
from .field_laws import FIELD_LAWS as FIELD_LAWS
from .field_laws import check_field as check_field
from .frames import Frame as Frame
from .frames import Units as Units
from .frames import frames as frames
from .frames import in_units as in_units
from .frames import seen_from as seen_from
from .frames import units as units
from .histories import samples as samples
from .histories import trajectories as trajectories
from .histories import windows as windows
from .integrator_laws import INTEGRATOR_LAWS as INTEGRATOR_LAWS
from .integrator_laws import check_integrator as check_integrator
from .law import LawError as LawError
from .learned import DrawnPolicy as DrawnPolicy
from .learned import filled as filled
from .learned import parameters as parameters
from .learned import policies as policies
from .learned import signed as signed
from .learned import structures as structures
from .objective_laws import OBJECTIVE_LAWS as OBJECTIVE_LAWS
from .objective_laws import check_objective as check_objective
from .optimizer_laws import OPTIMIZER_LAWS as OPTIMIZER_LAWS
from .optimizer_laws import check_optimizer as check_optimizer
from .policy_laws import POLICY_LAWS as POLICY_LAWS
from .policy_laws import check_policy as check_policy
from .scheme_laws import SCHEME_LAWS as SCHEME_LAWS
from .scheme_laws import check_scheme as check_scheme
from .step_laws import STEP_LAWS as STEP_LAWS
from .step_laws import check_step as check_step
from .strategies import batches as batches
from .strategies import fields as fields
from .strategies import orbits as orbits
from .strategies import systems as systems
