# What a newcomer runs. Everything installs into .venv in this folder; `.venv/bin/python manage.py …` works afterwards.

.DEFAULT_GOAL := help
.PHONY: help run test check bench test-sqlite test-postgres test-campaign lock

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

run: ## install, set up and start Bramley on this machine (Ctrl-C ends it)
	@tools/prepare requirements.txt
	@exec .venv/bin/python manage.py start

test: ## everything: installs what it needs, checks, SQLite, PostgreSQL and Redis
	@tools/install-test-packages
	@tools/prepare requirements-dev.txt
	@tools/check
	@.venv/bin/python tools/run_tests.py sqlite postgres

check: ## ruff, mypy strict, import-linter, migrations
	@tools/prepare requirements-dev.txt
	@tools/check

test-sqlite: ## the suite on SQLite
	@tools/prepare requirements-dev.txt
	@.venv/bin/python tools/run_tests.py sqlite

test-postgres: ## the database and queue tests on a real PostgreSQL and Redis, started for them
	@tools/prepare requirements-dev.txt
	@.venv/bin/python tools/run_tests.py postgres

test-campaign: ## 1,000 simulated devices through a re-key campaign, the server killed three times (about 8 minutes)
	@tools/prepare requirements-dev.txt
	@BRAMLEY_CAMPAIGN_DEVICES=1000 .venv/bin/python -m pytest -q -s -o faulthandler_timeout=1800 tests/chaos/test_rekey_campaign.py

bench: ## measure it and compare with the targets; JSON lines and a table (BENCH="--help")
	@tools/prepare requirements-dev.txt
	@.venv/bin/python -m bench $(BENCH)

lock: ## write requirements*.txt anew from pyproject.toml (newest allowed versions, hashes, no addresses)
	@tools/lock
