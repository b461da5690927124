"""Measuring the running product: enrolments and connects a second, and their cost (docs/performance.md)."""
