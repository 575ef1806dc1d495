"""Many overlapping maps → one map."""
