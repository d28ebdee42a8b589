#!/bin/sh
# Puts the application's secret files into OpenBao and lets it in by AppRole; safe to repeat. Needs BAO_ADDR and a token
# (`bao login`, or BAO_TOKEN). The ids of the role are written into vault_role_id and vault_secret_id, beside the other files.
set -eu
umask 077
here=$(dirname "$0")
files=${SECRETS_DIR:-/secrets}

bao secrets list -format=json | grep -q '"secret/"' || bao secrets enable -version=2 -path=secret kv
bao auth list -format=json | grep -q '"approle/"' || bao auth enable approle
bao policy write credit-system "$here/policy.hcl"
bao write auth/approle/role/credit-system token_policies=credit-system token_period=1h

set --
for name in mongodb_user mongodb_password mongodb_analytics_user mongodb_analytics_password mongodb_admin_user \
  mongodb_admin_password redis_password redis_encryption_key encryption_key jwt_secret; do
  set -- "$@" "$name=@$files/$name"
done
# A new engine is not there at once.
tries=0
until bao kv put -mount=secret credit-system/app "$@" > /dev/null; do
  tries=$((tries + 1))
  [ "$tries" -lt 10 ] || exit 1
  sleep 1
done

bao read -field=role_id auth/approle/role/credit-system/role-id > "$files/vault_role_id"
bao write -force -field=secret_id auth/approle/role/credit-system/secret-id > "$files/vault_secret_id"
echo "openbao: the application's secrets are in secret/credit-system/app, and its ids in $files"
