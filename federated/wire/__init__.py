"""Data on the wire: protobuf messages and their checked values, chunk encodings, proxies."""
