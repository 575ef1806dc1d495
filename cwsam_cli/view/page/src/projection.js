// The projection of the map, which is that of the class map, and longitudes and latitudes.

import Projection from 'ol/proj/Projection.js';
import {getDistance} from 'ol/sphere.js';
import proj4 from 'proj4';

/**
 * Make the conversion between coordinates of the map and longitude and latitude (WGS 84).
 * @param {{proj: ?string, geodetic: ?string, shift: number[]}} crs PROJ strings of the CRS and of its datum, and what
 *     WGS 84 adds to longitude and latitude of that datum.
 * @return {?{forward: function(number[]): number[], inverse: function(number[]): number[]}} Null if there is none.
 */
export function makeLonLat(crs) {
  if (!crs.proj) {
    return null;
  }
  try {
    const conversion = proj4(crs.geodetic, crs.proj);
    const [east, north] = crs.shift;
    const lonLat = {
      forward: ([lon, lat]) => conversion.forward([lon - east, lat - north]),
      inverse: (place) => {
        const [lon, lat] = conversion.inverse(place);
        return [lon + east, lat + north];
      },
    };
    return lonLat.inverse(crs.centre).every(Number.isFinite) ? lonLat : null;
  } catch {
    return null; // a projection that proj4 does not know
  }
}

/**
 * @param {{units: string, metersPerUnit: ?number}} crs The CRS.
 * @param {?Object} lonLat The conversion that `makeLonLat` made.
 * @return {Projection} The projection of the map and of all its layers.
 */
export function makeProjection(crs, lonLat) {
  const metres = crs.metersPerUnit;
  return new Projection({
    code: 'cwsam:view',
    units: crs.units,
    metersPerUnit: metres ?? 1,
    getPointResolution: (resolution, [x, y]) => {
      if (!lonLat || !metres) {
        return resolution;
      }
      const ends = [-0.5, 0.5].map((step) => lonLat.inverse([x + step * resolution, y]));
      const length = getDistance(...ends);
      return Number.isFinite(length) && length > 0 ? length / metres : resolution;
    },
  });
}
