"""WSGI entry point: both doors, behind what every request passes."""

from __future__ import annotations

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mdm_project.settings")
django.setup(set_prefix=False)

from mdm_project import environment, neighbours  # noqa: E402
from mdm_project.doors import Doors  # noqa: E402
from mdm_project.imports import without  # noqa: E402
from mdm_project.supervisor import end_with_parent  # noqa: E402
from mdm_project.threshold import Threshold, forget_variables_that_look_like_headers  # noqa: E402

# It imports, where they are there, one for a client in tests and the others for pages that are not served
# here: a twentieth of what this process weighs.
with without("requests", "pygments", "markdown"):
    import rest_framework.compat  # noqa: F401

forget_variables_that_look_like_headers()
# A web server's process that outlives its parent would keep the port.
end_with_parent(os.getppid())
application = Threshold(Doors(), neighbours=neighbours.beside(environment.home(), os.getppid()))
