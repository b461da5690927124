"""Bramley's project: settings, the two doors, Celery, and the supervisor of one machine."""

from mdm_project.celery import app as celery_app

__all__ = ["celery_app"]
