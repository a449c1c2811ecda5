"""Datasets inside the engines that spread work over processes and machines: `Dataset.to_dask`, `Dataset.to_ray`.

Each is imported only when it is used. What a worker has to read is planned here and read there: see
`aljava.engines.portions`.
"""
