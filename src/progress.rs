//! What a step may tell the operator: bars, plain lines, silence.
