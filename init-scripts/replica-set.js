// Makes one replica set of fresh servers, gives it its root user, and applies mongodb-init.js; safe to repeat.
// Runs with `mongosh --nodb`, where the first of MEMBERS (host:port,host:port,...) is also 127.0.0.1 at the same port:
// over loopback a server without users lets its first one be made. Passwords are read from the files of SECRETS_DIR (/secrets).

const { readFileSync } = require('fs');
const { join } = require('path');

const ALREADY_INITIALIZED = 23;
const AUTHENTICATION_FAILED = 18;
const PAUSE_MS = 200;
const PATIENCE_MS = 60_000;

const members = process.env.MEMBERS.split(',');
const loopback = `127.0.0.1:${members[0].split(':')[1]}/admin?directConnection=true`;
const password = readFileSync(join(process.env.SECRETS_DIR || '/secrets', 'mongodb_root_password'), 'utf8').trim();
const asRoot = `mongodb://root:${encodeURIComponent(password)}@`;

function hasRoot() {
  try {
    new Mongo(asRoot + loopback).getDB('admin').runCommand({ ping: 1 });
    return true;
  } catch (error) {
    if (error.code !== AUTHENTICATION_FAILED) throw error;
    return false;
  }
}

function initiate(anyone) {
  // The first one is preferred, so that it is primary now, and after an update of all the same as before.
  const config = { _id: 'rs0', members: members.map((host, number) => ({ _id: number, host, priority: number ? 1 : 2 })) };
  try {
    anyone.runCommand({ replSetInitiate: config });
  } catch (error) {
    if (error.code !== ALREADY_INITIALIZED) throw error;
  }
}

function waitForPrimary(anyone) {
  const end = Date.now() + PATIENCE_MS;
  while (!anyone.runCommand({ hello: 1 }).isWritablePrimary) {
    if (Date.now() > end) throw new Error(`${members[0]} did not become primary`);
    sleep(PAUSE_MS);
  }
}

if (!hasRoot()) {
  const anyone = new Mongo(`mongodb://${loopback}`).getDB('admin');
  initiate(anyone);
  waitForPrimary(anyone);
  anyone.createUser({ user: 'root', pwd: password, roles: ['root'] });
}
db = new Mongo(`${asRoot}${members.join(',')}/admin?replicaSet=rs0`).getDB('admin');
load(join(__dirname, 'mongodb-init.js'));
