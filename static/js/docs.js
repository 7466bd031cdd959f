// The reference of the HTTP API: openapi.json, made readable.

/**
 * @typedef {{ name: string, in: string, required?: boolean, description?: string }} Parameter
 * @typedef {{ description: string, content?: Record<string, { schema?: object }> }} Body
 * @typedef {{ tags: string[], summary: string, description?: string, security: Record<string, string[]>[],
 *   parameters?: Parameter[], requestBody?: Body, responses: Record<string, Body & { $ref?: string }> }} Operation
 */

/**
 * An element with children: text or elements.
 * @param {string} name
 * @param {Record<string, string>} attributes
 * @param {...(Node | string)} children
 */
function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/**
 * What `$ref` names, in place of it, at any depth.
 * @param {any} value
 * @param {any} whole
 * @returns {any}
 */
function resolved(value, whole) {
  if (Array.isArray(value)) return value.map((entry) => resolved(entry, whole));
  if (value === null || typeof value !== 'object') return value;
  if (typeof value.$ref === 'string') {
    const target = value.$ref.slice(2).split('/').reduce((/** @type {any} */ at, /** @type {string} */ key) => at[key], whole);
    return resolved(target, whole);
  }
  return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, resolved(entry, whole)]));
}

/** @param {[string, string][]} rows */
function list(rows) {
  return element('dl', {}, ...rows.flatMap(([term, text]) => [element('dt', {}, element('code', {}, term)), element('dd', {}, text)]));
}

/** @param {Record<string, { schema?: object }> | undefined} content */
function schemas(content) {
  return Object.entries(content ?? {}).flatMap(([type, { schema }]) => {
    const isPlain = !schema || !('properties' in schema || 'items' in schema);
    const title = element('p', {}, element('code', {}, type));
    return isPlain ? [title] : [title, element('pre', {}, JSON.stringify(schema, null, 2))];
  });
}

/**
 * @param {string} path
 * @param {string} method
 * @param {Operation} operation
 */
function described(path, method, operation) {
  const { summary, description, security, parameters = [], requestBody, responses } = operation;
  const needs = security.length === 0 ? 'no token' : `${Object.keys(security[0])[0]} token`;
  const head = element(
    'summary',
    {},
    element('span', { class: 'method' }, method.toUpperCase()),
    element('code', {}, path),
    element('span', {}, summary),
    element('span', { class: 'needs' }, needs),
  );
  const body = element('details', { 'data-operation': `${method} ${path}` }, head);
  if (description) body.append(element('p', {}, description));
  if (parameters.length > 0) {
    body.append(list(parameters.map(({ name, in: where, description: text }) => [name, `${where}: ${text ?? ''}`])));
  }
  if (requestBody) body.append(element('p', {}, 'Body'), ...schemas(requestBody.content));
  for (const [status, { description: text, content }] of Object.entries(responses)) {
    body.append(list([[status === 'default' ? 'else' : status, text]]), ...schemas(content));
  }
  return body;
}

async function show() {
  const page = /** @type {HTMLElement} */ (document.getElementById('reference'));
  const answer = await fetch('openapi.json');
  if (!answer.ok) throw new Error(`openapi.json: ${answer.status}`);
  const whole = await answer.json();
  const reference = resolved(whole, whole);
  for (const { name, description } of reference.tags) {
    page.append(element('h2', {}, description));
    for (const [path, methods] of Object.entries(reference.paths)) {
      for (const [method, operation] of Object.entries(methods)) {
        if (operation.tags[0] === name) page.append(described(path, method, operation));
      }
    }
  }
}

show().catch((error) => {
  const fault = /** @type {HTMLElement} */ (document.getElementById('fault'));
  fault.textContent = `The reference cannot be read: ${error.message}`;
  fault.hidden = false;
});
