"""A package, so that what its tests share ends with the last of them: an idle system costs the others their time."""
