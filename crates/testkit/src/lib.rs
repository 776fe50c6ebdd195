//! Fixtures for tests: fresh tokens, signed tokens, golden TDFs.
