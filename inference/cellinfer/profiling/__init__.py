"""From cells to biology: tables of cells or wells to profiles, corrected for batches, judged and compared.

Every step is a function from data frames to data frames and can be used alone. Rows are cells, sites, wells or
treatments; columns are metadata or features, see `cellinfer.profiling.columns`.
"""
