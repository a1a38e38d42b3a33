"""What an operator uses from outside the server: the client for status and orders, TensorBoard
summaries.
"""
