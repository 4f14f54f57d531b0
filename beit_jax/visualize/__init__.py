"""Pictures and reports of runs; the only package that imports matplotlib."""
