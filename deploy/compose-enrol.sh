#!/usr/bin/env bash
# Enrol the two sites of docker-compose.yml with its coordinator: the three volumes then hold their settings and keys.
# Afterwards put each site's train.csv (text,label) into its volume, and read its client.yaml and policy.yaml.
set -euo pipefail
cd "$(dirname "$0")/.."

docker compose build coordinator
run() { docker compose run --rm --no-deps -T "$@"; }

run coordinator admin init /data --name demo-net --address coordinator:9092
for site in site-a site-b; do
  run "$site" client enroll /data --site "$site"
  run --entrypoint cat "$site" /data/request.json \
    | run --entrypoint sh coordinator -c "cat > /data/request-$site.json"
  run coordinator admin approve "/data/request-$site.json" --config /data/server.yaml --out "/data/grant-$site.json"
  run --entrypoint cat coordinator "/data/grant-$site.json" \
    | run --entrypoint sh "$site" -c "cat > /data/grant.json"
  run "$site" client accept /data /data/grant.json
  run --entrypoint sh "$site" -c "echo 'log_to: output' >> /data/client.yaml"
done
run --entrypoint sh coordinator -c "echo 'log_to: output' >> /data/server.yaml"
run --entrypoint sh coordinator -c "echo 'store: sqlite:////store/fedlora.db' >> /data/server.yaml"
run --entrypoint sh coordinator -c "echo 'metrics_listen: 10.87.0.2:9094' >> /data/server.yaml"
echo "Add yourself to the dashboard, then start: docker compose run --rm dashboard dashboard user add NAME --role admin"
