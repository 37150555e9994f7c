"""The parts of ``sweep``: variants, workers, the folder of results, the choice and the report."""
