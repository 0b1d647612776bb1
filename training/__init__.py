"""A recipe -> a published model version.

In: a recipe and the data that it names. Out: a version in `models/`. Read the folders as the data flows: `data`,
`recipe`, `network`, `evaluation`, `fit`, `runs`, `release`; `__main__.py` holds the commands.
"""

import contract  # noqa: F401 -- turns off the telemetry of dependencies before they are imported
