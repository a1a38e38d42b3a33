"""What travels: protobuf messages and their checked values, chunk encodings, endpoints."""
