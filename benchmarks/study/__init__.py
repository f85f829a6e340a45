"""The engine of the studies: trials of variants on data sets with seeds, their measurements, and their report."""
