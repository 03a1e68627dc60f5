"""Writers: what a run leaves behind (tables, label images, run.json, overview picture)."""
