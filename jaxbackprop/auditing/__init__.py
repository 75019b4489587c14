"""The audit: is a gradient that was derived by hand right, and if not, what is the mistake?"""

from jaxbackprop.auditing.assertions import assert_gradient as assert_gradient
from jaxbackprop.auditing.cases import audit_network as audit_network
from jaxbackprop.auditing.layered import Network as Network
from jaxbackprop.auditing.pullback import audit_vjp as audit_vjp
from jaxbackprop.auditing.refusals import AuditError as AuditError
from jaxbackprop.auditing.report import Finding as Finding
from jaxbackprop.auditing.report import Report as Report
from jaxbackprop.auditing.report import StageFinding as StageFinding
from jaxbackprop.auditing.report import StageReport as StageReport
from jaxbackprop.auditing.stages import audit_stages as audit_stages
from jaxbackprop.auditing.summary import NetworkReport as NetworkReport
from jaxbackprop.auditing.whole import audit as audit
