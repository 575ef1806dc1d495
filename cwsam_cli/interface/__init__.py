"""The Python interface: arrays in, arrays or files out, for notebooks and scripts.

Every function calls the pipeline of a command. A classified array therefore equals the map of a scene with the same
pixels. Options have the names and values that they have on the command line, with `_` for `-`.

Errors that a user can correct are subclasses of `cwsam_cli.errors.CwsamError`; `error.hint` says what to do.
"""

from cwsam_cli.interface.class_map import ClassMap as ClassMap
from cwsam_cli.interface.classifier import Classifier as Classifier
from cwsam_cli.interface.classifier import open_checkpoint as open_checkpoint
from cwsam_cli.interface.maps import assess_map as assess_map
from cwsam_cli.interface.maps import polygons as polygons
from cwsam_cli.interface.maps import vectorize_map as vectorize_map
from cwsam_cli.verify.sampled import assess_sample as assess_sample
