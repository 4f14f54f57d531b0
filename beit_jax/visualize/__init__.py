"""Pictures and reports of runs; the only room that imports matplotlib."""
