"""What schemathesis must be told: how the body of a part of an upload is sent."""

import schemathesis


@schemathesis.serializer("application/offset+octet-stream")
def octets(_, value):
    """Bytes as they are."""
    return value if isinstance(value, bytes) else str(value).encode()
