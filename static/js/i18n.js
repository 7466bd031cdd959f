// What the page says, in English and French. The language follows the browser until the reader
// chooses one; elements carry their text's key in `data-i18n`, attributes in `data-i18n-attr`.

import { FRENCH_LABELS } from './labels.js';

/** @typedef {'en' | 'fr'} Language */
/** @typedef {Record<string, string | number>} Values */

// French double punctuation and guillemets stand after or before a no-break space (U+00A0).
/** @type {Record<string, readonly [english: string, french: string]>} */
const TEXTS = {
  page_title: ['vigie · live recognition', 'vigie · reconnaissance en direct'],
  pages: ['Pages', 'Pages'],
  page_live: ['Live', 'Direct'],
  page_videos: ['Videos', 'Vidéos'],
  page_models: ['Models', 'Modèles'],
  skip: ['Skip to the controls', 'Aller aux commandes'],
  language: ['Language', 'Langue'],
  theme: ['Colours', 'Couleurs'],
  theme_auto: ['Auto', 'Auto'],
  theme_light: ['Light', 'Clair'],
  theme_dark: ['Dark', 'Sombre'],

  notice_title: ['Before the picture is sent', 'Avant l’envoi de l’image'],
  notice_lead: [
    'Your picture is sent, encrypted, to this server, which looks for:',
    'Votre image est envoyée, chiffrée, à ce serveur, qui y cherche :',
  ],
  notice_faces: ['where faces are, not whose they are', 'où sont les visages, non à qui ils sont'],
  notice_gender_term: ['Apparent gender', 'Genre apparent'],
  notice_gender: [
    'an appearance, not who a person is; given with a confidence, or as “unsure”',
    'une apparence, non l’identité de la personne ; donné avec un indice de confiance, ou « incertain »',
  ],
  notice_objects: ['80 everyday kinds, people among them', '80 catégories courantes, dont les personnes'],
  notice_text: [
    'what is written in view, only where “Read text” is switched on',
    'ce qui est écrit dans le champ, seulement si « Lire le texte » est activé',
  ],
  notice_stored: [
    'Nothing is stored: pictures and results are forgotten as soon as they are shown. Each task can be switched off at any time. If others are in view, ask them first.',
    'Rien n’est conservé : images et résultats sont oubliés sitôt montrés. Chaque tâche peut être coupée à tout moment. Si d’autres sont dans le champ, demandez-leur d’abord.',
  ],
  agree_camera: ['Agree and open the camera', 'Accepter et ouvrir la caméra'],
  agree_file: ['Agree and use a file…', 'Accepter et utiliser un fichier…'],
  agree_this_file: ['Agree and send {name}', 'Accepter et envoyer {name}'],
  drop_hint: [
    'No camera? Drop a video or a picture anywhere on this page.',
    'Pas de caméra ? Déposez une vidéo ou une image n’importe où sur cette page.',
  ],
  drop_here: ['Drop it to use it as the camera', 'Déposez-le pour en faire la caméra'],

  controls: ['Controls', 'Commandes'],
  source: ['Source', 'Source'],
  source_default: ['Default camera', 'Caméra par défaut'],
  source_camera: ['Camera {n}', 'Caméra {n}'],
  source_file: ['File: {name}', 'Fichier : {name}'],
  resolution: ['Size', 'Taille'],
  view: ['View', 'Vue'],
  view_overlay: ['Overlay', 'Calque'],
  view_annotated: ['Annotated', 'Annotée'],
  view_both: ['Both', 'Les deux'],
  mirror: ['Mirror', 'Miroir'],
  relay: ['Relay only', 'Relais seul'],
  relay_described: [
    'Send everything through the TURN server, as from behind a strict firewall',
    'Tout faire passer par le serveur TURN, comme derrière un pare-feu strict',
  ],
  file: ['File…', 'Fichier…'],
  hang_up: ['Hang up', 'Raccrocher'],
  picture_local: ['Your picture', 'Votre image'],
  picture_local_described: [
    'Your picture, with what was recognised drawn over it',
    'Votre image, où est dessiné ce qui a été reconnu',
  ],
  watch_link: ['Watch link', 'Lien de visionnage'],
  watch_link_described: [
    'Whoever has this link sees the annotated picture while this session lasts',
    'Qui a ce lien voit l’image annotée tant que dure cette session',
  ],
  watch_connecting: ['Connecting', 'Connexion'],
  watch_live: ['Watching', 'En direct'],
  watch_reconnecting: ['Interrupted, trying again', 'Interrompu, nouvel essai'],
  watch_busy: ['Not on air yet or too many viewers, trying again', 'Pas encore à l’antenne ou trop de spectateurs, nouvel essai'],
  watch_ended: ['Ended', 'Terminé'],
  picture_annotated: ['Annotated by the server', 'Annotée par le serveur'],

  recognise: ['Recognise', 'Reconnaître'],
  faces: ['Faces', 'Visages'],
  gender: ['Apparent gender', 'Genre apparent'],
  objects: ['Objects', 'Objets'],
  text: ['Text', 'Texte'],
  read_text: ['Read text', 'Lire le texte'],
  quoted: ['“{text}”', '« {text} »'],
  no_model: ['no model', 'aucun modèle'],
  threshold: ['Least score', 'Score minimal'],
  threshold_auto: ['auto', 'auto'],
  unsure_gender: ['gender unsure', 'genre incertain'],
  in_view: ['In view', 'Dans le champ'],
  nothing_in_view: ['Nothing recognised yet', 'Rien de reconnu pour l’instant'],
  latency: ['Latency, end to end', 'Latence, de bout en bout'],
  latency_estimated: ['Latency, estimated', 'Latence, estimée'],
  latency_plot: ['Latency over the last minute', 'Latence de la dernière minute'],
  stages: ['Stages of the latency', 'Étapes de la latence'],
  stage_network: ['transit', 'transit'],
  stage_network_described: ['capture, encoding and network, both ways', 'capture, encodage et réseau, aller et retour'],
  stage_receive: ['receive', 'réception'],
  stage_decode: ['decode', 'décodage'],
  stage_queue: ['queue', 'attente'],
  stage_prepare: ['prepare', 'préparation'],
  stage_infer: ['infer', 'inférence'],
  stage_track: ['track', 'suivi'],
  rates: ['Rates', 'Cadences'],
  sent: ['Sent', 'Envoyées'],
  recognised: ['Recognised', 'Reconnues'],
  annotated: ['Annotated', 'Annotées'],
  dropped: ['Skipped', 'Sautées'],
  rtt: ['Round trip', 'Aller-retour'],
  codec: ['Codec', 'Codec'],
  fps_unit: ['fps', 'i/s'],

  state_idle: ['At rest', 'Au repos'],
  state_opening: ['Opening the camera', 'Ouverture de la caméra'],
  state_connecting: ['Connecting', 'Connexion'],
  state_live: ['Live', 'En direct'],
  state_reconnecting: ['Reconnecting', 'Reconnexion'],
  state_busy: ['Waiting for a place', 'En attente d’une place'],
  state_ended: ['Ended', 'Terminé'],

  try_again: ['Try again', 'Réessayer'],
  dismiss: ['Dismiss', 'Fermer'],

  no_camera: [
    'No camera was found. Connect one, or use a video or picture file.',
    'Aucune caméra trouvée. Branchez-en une, ou utilisez un fichier vidéo ou image.',
  ],
  camera_refused: [
    'The camera was refused. Allow it in the browser’s site settings, or use a file.',
    'L’accès à la caméra a été refusé. Autorisez-le dans les réglages du site, ou utilisez un fichier.',
  ],
  camera_in_use: [
    'The camera is in use by another program. Close that program, or choose another camera.',
    'La caméra est utilisée par un autre programme. Fermez-le, ou choisissez une autre caméra.',
  ],
  camera_failed: ['The camera could not be opened: {detail}', 'La caméra n’a pas pu être ouverte : {detail}'],
  camera_unplugged: [
    'The camera is gone: was it unplugged? The session stays open; choose another source.',
    'La caméra a disparu : a-t-elle été débranchée ? La session reste ouverte ; choisissez une autre source.',
  ],
  insecure_context: [
    'Browsers open the camera only over HTTPS or on localhost. Open this page that way, or use a file.',
    'Les navigateurs n’ouvrent la caméra qu’en HTTPS ou sur localhost. Ouvrez cette page ainsi, ou utilisez un fichier.',
  ],
  no_webrtc: ['This browser has no WebRTC, which this page needs.', 'Ce navigateur n’a pas WebRTC, dont cette page a besoin.'],
  picture_black: ['The picture is black: is the camera covered?', 'L’image est noire : la caméra est-elle couverte ?'],
  file_unreadable: [
    '{name} cannot be shown by this browser. Try MP4, WebM, JPEG or PNG.',
    '{name} ne peut être lu par ce navigateur. Essayez MP4, WebM, JPEG ou PNG.',
  ],
  server_unreachable: [
    'The server cannot be reached. Trying again in {seconds} s.',
    'Le serveur est injoignable. Nouvel essai dans {seconds} s.',
  ],
  connection_lost: [
    'The connection was lost. Trying again in {seconds} s.',
    'La connexion est perdue. Nouvel essai dans {seconds} s.',
  ],
  network_changed: ['The network has changed; finding a new path.', 'Le réseau a changé ; recherche d’un nouveau chemin.'],
  no_media_path: [
    'The server answers, but no media gets through: a firewall may block UDP and no TURN relay helped. Trying again in {seconds} s.',
    'Le serveur répond, mais aucun flux ne passe : un pare-feu bloque peut-être UDP et aucun relais TURN n’y a remédié. Nouvel essai dans {seconds} s.',
  ],
  busy: ['The server is full. Trying again in {seconds} s.', 'Le serveur est complet. Nouvel essai dans {seconds} s.'],
  not_ready: ['The server is not ready. Trying again in {seconds} s.', 'Le serveur n’est pas prêt. Nouvel essai dans {seconds} s.'],
  no_relay: [
    'This service has no TURN server, so nothing can be relayed. Switch “Relay only” off.',
    'Ce service n’a pas de serveur TURN : rien ne peut être relayé. Désactivez « Relais seul ».',
  ],
  codec_unsupported: [
    'This browser and the server share no video codec. {detail}',
    'Ce navigateur et le serveur n’ont aucun codec vidéo en commun. {detail}',
  ],
  session_ended: ['The server ended the session: {detail}', 'Le serveur a terminé la session : {detail}'],
  session_ended_plain: ['The server ended the session.', 'Le serveur a terminé la session.'],
  server_refused: ['The server refused: {detail}', 'Le serveur a refusé : {detail}'],
  annotated_half_rate: [
    'The server is busy: the annotated video comes at half the rate.',
    'Le serveur est chargé : la vidéo annotée arrive à demi-cadence.',
  ],
  annotated_half_size: [
    'The server is busy: the annotated video comes at half the size.',
    'Le serveur est chargé : la vidéo annotée arrive à demi-taille.',
  ],
  annotated_off: [
    'The server is too busy for annotated video: the overlay goes on.',
    'Le serveur est trop chargé pour la vidéo annotée : le calque continue.',
  ],
  camera_half_rate: [
    'The server cannot decode as much: the camera sends half its pictures.',
    'Le serveur ne peut pas tout décoder : la caméra envoie la moitié de ses images.',
  ],
  camera_quarter_rate: [
    'The server cannot decode as much: the camera sends a quarter of its pictures.',
    'Le serveur ne peut pas tout décoder : la caméra envoie le quart de ses images.',
  ],
  server_notice: ['The server says: {detail}', 'Le serveur signale : {detail}'],
};

/** @type {readonly Language[]} */
export const LANGUAGES = Object.freeze(['en', 'fr']);

/** @type {Language} */
let language = 'en';

/** @type {Set<() => void>} */
const listeners = new Set();

/** @returns {Language} */
export function currentLanguage() {
  return language;
}

/**
 * The language of the first browser preference that the page speaks, English failing that.
 * @param {readonly string[]} preferences BCP 47 tags, best first
 * @returns {Language}
 */
export function preferredLanguage(preferences) {
  for (const tag of preferences) {
    const found = LANGUAGES.find((known) => tag.toLowerCase().startsWith(known));
    if (found) return found;
  }
  return 'en';
}

/**
 * The text of `key`, with `{name}` replaced by `values.name`.
 * @param {string} key
 * @param {Values} [values]
 */
export function t(key, values = {}) {
  const text = TEXTS[key]?.[language === 'fr' ? 1 : 0] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}

/** Adds the texts of one page. @param {Record<string, readonly [english: string, french: string]>} texts */
export function addTexts(texts) {
  Object.assign(TEXTS, texts);
}

/** Whether there is a text for `key`. @param {string} key */
export function knows(key) {
  return Object.hasOwn(TEXTS, key);
}

/** A class or appearance as the reader's language calls it. @param {string} label */
export function translateLabel(label) {
  return language === 'fr' ? (FRENCH_LABELS[label] ?? label) : label;
}

/**
 * A number as the reader's language writes it.
 * @param {number | null | undefined} value
 * @param {number} [digits] after the decimal sign
 */
export function formatNumber(value, digits = 0) {
  if (value === null || value === undefined || !Number.isFinite(value)) return '–';
  return value.toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** A score of 0 to 1 as a percentage. @param {number} score */
export function formatScore(score) {
  return score.toLocaleString(language, { style: 'percent', maximumFractionDigits: 0 });
}

/** Calls `listener` after each change of language. @param {() => void} listener */
export function onLanguageChange(listener) {
  listeners.add(listener);
}

/** Switches the whole page to `next`. @param {Language} next */
export function setLanguage(next) {
  language = next;
  document.documentElement.lang = next;
  translate(document);
  for (const listener of listeners) listener();
}

/** Fills in the texts of `root`'s marked elements. @param {ParentNode} root */
export function translate(root) {
  for (const element of root.querySelectorAll('[data-i18n]')) {
    element.textContent = t(/** @type {HTMLElement} */ (element).dataset.i18n ?? '');
  }
  for (const element of root.querySelectorAll('[data-i18n-attr]')) {
    for (const pair of (/** @type {HTMLElement} */ (element).dataset.i18nAttr ?? '').split(' ')) {
      const [attribute, key] = pair.split(':');
      element.setAttribute(attribute, t(key));
    }
  }
}
