"""The audit: is a gradient that was derived by hand right, and if not, what is the mistake?"""

from jaxbackprop.audit.cases import audit_network as audit_network
from jaxbackprop.audit.gradient import audit as audit
from jaxbackprop.audit.network import Network as Network
from jaxbackprop.audit.report import Finding as Finding
from jaxbackprop.audit.report import Report as Report
from jaxbackprop.audit.report import StageFinding as StageFinding
from jaxbackprop.audit.report import StageReport as StageReport
from jaxbackprop.audit.stages import audit_stages as audit_stages
from jaxbackprop.audit.summary import NetworkReport as NetworkReport
