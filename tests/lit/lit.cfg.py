# The dialect's and the passes' tests: textual IR through llmir-opt, checked by FileCheck.
import os

import lit.formats

config.name = "planner"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".mlir"]
config.excludes = ["inputs"]
config.test_source_root = os.path.dirname(__file__)
config.substitutions.append(("FileCheck", config.filecheck))
config.environment["PATH"] = os.pathsep.join((config.tools_folder, config.environment["PATH"]))
