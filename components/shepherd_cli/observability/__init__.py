"""Makes what describes the metrics from the code that has them: a page and dashboards."""
