"""The servers that a laptop or a test needs: MongoDB, Redis and OpenBao, real ones, each with its data in a folder."""

from tools.local_stack.process import ServerFailed
from tools.local_stack.stack import LocalStack

__all__ = ["LocalStack", "ServerFailed"]
