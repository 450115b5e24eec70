"""What the gate looks at, a file each: every one gives checks (`fedlora.gate.verdict.Check`), and writes nothing."""
