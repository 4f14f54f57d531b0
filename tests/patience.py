"""How long tests wait for what must happen."""

# A limit ends a test that hangs; it measures nothing. A busy machine takes many times as long as a quiet one.
# A program that a test expects to be ended must go on for longer than this, or the test cannot fail.
PATIENCE_S = 900
