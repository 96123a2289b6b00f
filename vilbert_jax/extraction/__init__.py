"""From pictures to regions: the detector over many pictures, and a folder of them to a region store.

Read in this order: contract, batching, extractor; then sources, parts and run.
"""
