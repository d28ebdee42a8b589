path "secret/data/credit-system/*" { capabilities = ["read"] }
# Leases that the application made are given back when it stops.
path "sys/leases/revoke" { capabilities = ["update"] }
