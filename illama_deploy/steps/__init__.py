"""One file per thing a user does; `illama_deploy.NAME` and the CLI are thin shells over these."""
