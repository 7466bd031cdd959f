// WHIP and WHEP in Chromium, against the service at VIGIE_URL: a second page watches the first one's
// session, and a script publishes, trickles, restarts ICE and says goodbye as RFC 9725 has it.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { eventually, goLive, launch, openPage } from './chromium.mjs';
import { clip, metric, URL_BASE, waitForNoSessions, withoutService } from './service.mjs';

/** @typedef {import('playwright-core').Page} Page */

/** Pictures that the element has shown. @param {Page} page */
const shown = (page) => page.evaluate(() =>
  /** @type {HTMLVideoElement} */ (document.getElementById('annotated')).getVideoPlaybackQuality().totalVideoFrames);

/** @param {Page} page */
const faces = (page) => page.evaluate(() =>
  (window.vigie.lastReport?.tracks ?? []).filter(({ kind }) => kind === 'face').length);

/** @param {Page} page */
async function isWatching(page) {
  const before = await shown(page);
  await eventually('the annotated picture moves', async () => (await shown(page)) > before + 10);
  await eventually('reports name a face', async () => (await faces(page)) > 0);
}

const viewersAre = (count) =>
  eventually(`${count} viewers`, async () => (await metric('vigie_viewers_active')) === count);

describe('watching', { skip: withoutService }, () => {
  /** @type {Awaited<ReturnType<typeof launch>>} */
  let browser;
  before(async () => { browser = await launch({ camera: await clip('people.y4m') }); });
  after(async () => { await browser.close(); });

  test('others watch a page by its link, until it hangs up', async () => {
    const { page, faults } = await openPage(browser.context, URL_BASE);
    await goLive(page);
    assert.equal(await page.locator('#annotated').evaluate((video) => video.videoWidth), 0, 'it draws by itself');
    const link = await page.locator('#watch-link:visible').getAttribute('href');

    const first = await openPage(browser.context, link);
    await isWatching(first.page);
    const second = await openPage(browser.context, link);
    await isWatching(second.page);
    await viewersAre(2);
    assert.equal(await metric('vigie_sessions_active'), 1, 'viewers are no sessions');

    await second.page.close();
    await viewersAre(1);
    await isWatching(first.page);

    await page.click('#hang-up');
    await first.page.waitForFunction(() => window.vigie.state === 'ended');
    await viewersAre(0);
    assert.deepEqual([...faults, ...first.faults.filter((fault) => !fault.includes('404'))], []);
    await first.page.close();
    await page.close();
    await waitForNoSessions();
  });

  test('an invented link ends at once', async () => {
    const { page } = await openPage(browser.context, `${URL_BASE}watch#w1.0123456789abcdef.0~0`);
    await page.waitForFunction(() => window.vigie.state === 'ended');
    await page.close();
  });

  test('a script publishes by WHIP with trickled candidates, and restarts ICE', async () => {
    const { page } = await openPage(browser.context, `${URL_BASE}watch#`);
    const published = await page.evaluate(async () => {
      const stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 } });
      const pc = new RTCPeerConnection({ bundlePolicy: 'max-bundle' });
      const sound = new AudioContext().createMediaStreamDestination().stream;
      pc.addTransceiver(sound.getAudioTracks()[0], { direction: 'sendonly', streams: [stream] });
      pc.addTransceiver(stream.getVideoTracks()[0], { direction: 'sendonly', streams: [stream] });
      const fragment = (candidates) => {
        const line = (name) => new RegExp(`a=${name}:\\S+`).exec(pc.localDescription.sdp)[0];
        return [line('ice-ufrag'), line('ice-pwd'), 'm=audio 9 UDP/TLS/RTP/SAVPF 0', 'a=mid:0',
          ...candidates.map((candidate) => `a=${candidate}`), 'a=end-of-candidates', ''].join('\r\n');
      };
      const gather = () => {
        const found = [];
        return new Promise((resolve) => {
          pc.onicecandidate = ({ candidate }) => {
            if (candidate?.candidate) found.push(candidate.candidate);
            else if (!candidate) resolve(found);
          };
        });
      };
      const reach = (state) => new Promise((resolve) => {
        const look = () => (pc.iceConnectionState === state ? resolve() : setTimeout(look, 20));
        look();
      });
      const patch = (etag, body) => fetch(resource, {
        method: 'PATCH', body, headers: { 'content-type': 'application/trickle-ice-sdpfrag', 'if-match': etag },
      });

      let gathering = gather();
      const offer = await pc.createOffer();
      await pc.setLocalDescription(offer);
      const created = await fetch('whip?tasks=faces', {
        method: 'POST', body: offer.sdp, headers: { 'content-type': 'application/sdp' },
      });
      const resource = new URL(created.headers.get('location'), location.href).href;
      const answer = await created.text();
      await pc.setRemoteDescription({ type: 'answer', sdp: answer });
      const trickled = (await patch(created.headers.get('etag'), fragment(await gathering))).status;
      await reach('connected');

      gathering = gather();
      pc.restartIce();
      await pc.setLocalDescription();
      const restarted = await patch('*', fragment(await gathering));
      const ice = await restarted.text();
      const renewed = answer.split('\r\n').filter((line) => !/^a=(candidate:|end-of-candidates)/.test(line)).map((line) => {
        const [, name] = /^a=(ice-ufrag|ice-pwd):/.exec(line) ?? [];
        return name ? new RegExp(`a=${name}:\\S+`).exec(ice)[0] : line;
      }).join('\r\n');
      await pc.setRemoteDescription({ type: 'answer', sdp: renewed });
      for (const [, candidate] of ice.matchAll(/a=(candidate:.*)\r\n/g)) await pc.addIceCandidate({ candidate, sdpMid: '0' });
      const stale = (await patch(created.headers.get('etag'), 'a=end-of-candidates\r\n')).status;
      const pairs = async () => [...(await pc.getStats()).values()];
      window.whip = { pc, resource, pairs };
      return {
        created: created.status, hasNoCandidate: !offer.sdp.includes('a=candidate'), trickled, stale,
        restarted: restarted.status, isNew: restarted.headers.get('etag') !== created.headers.get('etag'),
        watch: created.headers.get('vigie-watch'), directions: answer.match(/a=(recvonly|sendrecv|sendonly|inactive)/g),
      };
    });
    const { watch, ...outcome } = published;
    assert.deepEqual(outcome, {
      created: 201, hasNoCandidate: true, trickled: 204, stale: 412, restarted: 200, isNew: true,
      directions: ['a=recvonly', 'a=recvonly'],
    });

    // Media flows over the new ICE session: the server's own name in it is in use.
    const inUse = () => page.evaluate(async () => {
      const stats = await window.whip.pairs();
      const transport = stats.find(({ type }) => type === 'transport');
      const [, ufrag] = /a=ice-ufrag:(\S+)/.exec(window.whip.pc.remoteDescription.sdp);
      const pair = stats.find(({ id }) => id === transport?.selectedCandidatePairId);
      const remote = stats.find(({ id }) => id === pair?.remoteCandidateId);
      return transport?.dtlsState === 'connected' && pair?.state === 'succeeded' && remote?.usernameFragment === ufrag;
    });
    await eventually('the new ICE session is in use', inUse);
    const viewer = await openPage(browser.context, `${URL_BASE}watch#${watch.replace('/whep/', '')}`);
    await isWatching(viewer.page);
    const kinds = await viewer.page.evaluate(() => new Set(window.vigie.lastReport.tracks.map(({ kind }) => kind)).size);
    assert.equal(kinds, 1, 'only faces were asked for');

    const ended = await page.evaluate(async () => (await fetch(window.whip.resource, { method: 'DELETE' })).status);
    assert.equal(ended, 200);
    await waitForNoSessions();
    await viewersAre(0);
    await viewer.page.close();
    await page.close();
  });
});
