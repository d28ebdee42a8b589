// Applies collections.json (beside this file) with mongosh: collections, views, indexes, roles and the three users.
// Safe to repeat. Runs in the official image's docker-entrypoint-initdb.d, or by hand against a replica set:
//   SECRETS_DIR=secrets mongosh 'mongodb://root@host:27017/?replicaSet=rs0' init-scripts/mongodb-init.js
// Names and passwords of the users are read from the files of SECRETS_DIR (/secrets by default).

const fs = require('fs');
const path = require('path');

const NAMESPACE_EXISTS = 48;
const listed = JSON.parse(fs.readFileSync(path.join(__dirname, 'collections.json'), 'utf8'));
const secretsDir = process.env.SECRETS_DIR || '/secrets';
const database = db.getSiblingDB(process.env.MONGODB_DATABASE || 'credit_system');
const plugins = db.getSiblingDB(`${database.getName()}_plugins`);
const admin = db.getSiblingDB('admin');

function secret(name) {
  return fs.readFileSync(path.join(secretsDir, name), 'utf8').trim();
}

// Whether it was created just now.
function create(name, options = {}) {
  try {
    database.createCollection(name, options);
    return true;
  } catch (error) {
    if (error.code !== NAMESPACE_EXISTS) throw error;
    return false;
  }
}

function applyCollections() {
  for (const [name, { indexes }] of Object.entries(listed.collections)) {
    create(name);
    if (indexes.length) run({ createIndexes: name, indexes });
  }
  for (const [name, view] of Object.entries(listed.views)) {
    if (!create(name, view)) run({ collMod: name, ...view });
  }
}

// mongosh returns some failures of commands instead of throwing them.
function run(command) {
  const answer = database.runCommand(command);
  if (!answer.ok) throw new Error(answer.errmsg);
}

// The collections that a grant means; an empty name stands for all of the database.
function members(group) {
  const collections = Object.entries(listed.collections);
  switch (group) {
    case 'database':
      return [''];
    case 'mutable':
      return collections.filter(([, options]) => !options.append_only).map(([name]) => name);
    case 'public':
      return [
        ...collections.filter(([, options]) => !options.private).map(([name]) => name),
        ...Object.keys(listed.views),
      ];
    default:
      throw new Error(`collections.json: no group named ${group}`);
  }
}

// Roles lie in the database that they are for: ours, or that of the plugins' collections.
function databaseOf(role) {
  return listed.roles[role].plugins ? plugins : database;
}

function applyRoles() {
  for (const [role, { inherits, grants }] of Object.entries(listed.roles)) {
    const home = databaseOf(role);
    const privileges = grants.flatMap(({ on, actions }) =>
      members(on).map((collection) => ({ resource: { db: home.getName(), collection }, actions }))
    );
    const roles = inherits.map((name) => ({ role: name, db: home.getName() }));
    if (home.getRole(role)) {
      home.updateRole(role, { privileges, roles });
    } else {
      home.createRole({ role, privileges, roles });
    }
  }
}

// In `admin`, where drivers look for users by default.
function applyUsers() {
  for (const { name_secret: nameSecret, password_secret: passwordSecret, roles } of listed.users) {
    const user = secret(nameSecret);
    const access = {
      pwd: secret(passwordSecret),
      roles: roles.map((role) => ({ role, db: databaseOf(role).getName() })),
      mechanisms: ['SCRAM-SHA-256'],
    };
    if (admin.getUser(user)) {
      admin.updateUser(user, access);
    } else {
      admin.createUser({ user, ...access });
    }
  }
}

applyCollections();
applyRoles();
applyUsers();
print(`mongodb-init: ${database.getName()} is up to date`);
