"""How long tests wait for what must happen."""

# A limit ends a test that hangs; it measures nothing. A busy machine takes many times as long as a quiet one.
PATIENCE_S = 600
