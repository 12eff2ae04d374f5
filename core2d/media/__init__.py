"""Pictures, sheets and videos, in and out."""
