-- 24-h SOFA: each organ's worst points of the last 24 hours of the grid, summed.
-- Inputs:  sofa_points (stay_id, hour and the six organs' points of the hour), hours
-- Output:  stay_id, hour (0 on), ends_at, the six organs' 24-h points, sofa_24h (0-24)
WITH worst AS (
    SELECT stay_id, hour, ends_at,
        max(respiration) OVER day AS respiration,
        max(coagulation) OVER day AS coagulation,
        max(liver) OVER day AS liver,
        max(cardiovascular) OVER day AS cardiovascular,
        max(cns) OVER day AS cns,
        max(renal) OVER day AS renal
    FROM sofa_points
    JOIN hours USING (stay_id, hour)
    WINDOW day AS (PARTITION BY stay_id ORDER BY hour ROWS BETWEEN 23 PRECEDING AND CURRENT ROW)
)
SELECT *, respiration + coagulation + liver + cardiovascular + cns + renal AS sofa_24h
FROM worst
WHERE hour >= 0
